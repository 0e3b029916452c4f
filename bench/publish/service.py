"""What the whole service costs and saves: runs of serve, router, memory and image."""

from __future__ import annotations

from bench.publish.kept import Kept
from bench.publish.markdown import number, paragraph, section, spread, table


def serve(kept: Kept) -> str:
    """Through the whole stack: sessions, beside the picture every time and the engine alone."""
    models = kept.data["figures"]
    rows = [
        ("first token of a follow-up, p50, ms", *(_p50(m["follow_up_ttft"]) for m in models)),
        ("… the picture sent every time", *(_p50(m["with_picture_ttft"]) for m in models)),
        ("picture every time ÷ follow-up", *(spread(m["ttft_ratio"]) for m in models)),
        (
            "open and first prompt, to the first token, ms",
            *(_p50(m["open_to_first"]) for m in models),
        ),
        ("a token of a follow-up, p50, ms", *(_p50(m["follow_up_tpot"]) for m in models)),
        (
            f"tokens/s with {models[0]['num_clients']} sessions",
            *(spread(m["session_rate_many"]) for m in models),
        ),
        (
            "… ÷ as many clients that send the picture every time",
            *(spread(m["rate_ratio"]) for m in models),
        ),
        ("the stack adds to a first token, ms", *(spread(m["overhead_ttft"]) for m in models)),
        ("the stack adds to each token, ms", *(spread(m["overhead_token"]) for m in models)),
    ]
    names = [f"{m['model']}, {m['num_image_tokens']} image tokens" for m in models]
    return section(
        "Through the whole service",
        paragraph(
            f"""`make bench`: HAProxy, TorchServe, service and engine over HTTP on one machine;
            {models[0]["dtype"]}, {kept.data["threads"]} engine thread(s), random weights; medians
            of {models[0]["num_rounds"]} rounds (smallest–largest)."""
        ),
        paragraph(kept.conditions),
        table(("", *names), rows),
    )


def router(kept: Kept) -> str:
    data = kept.data
    return section(
        "The sticky router",
        paragraph(
            f"""`python -m bench.router`: {data["direct"]["num_samples"]:,} pairs of the same
            request, direct and routed. The router adds {data["added"]:.2f} ms to the median
            request, {data["router_cpu"]:.2f} ms of processor time."""
        ),
        paragraph(kept.conditions),
    )


def memory(kept: Kept) -> str:
    """Open sessions in bytes, by process."""
    prints = kept.data["footprints"]
    processes = list(prints[0]["memory_mib"])
    rows = [
        (
            f"{each['num_sessions']:,}",
            *(f"{each['memory_mib'][process]:,.0f}" for process in processes),
            f"{each['state_kib'] / 1024:,.1f}",
        )
        for each in prints
    ]
    return section(
        "Memory of open sessions",
        paragraph(
            """`python -m bench.memory`: the built-in model; each session has a picture of its own
            and was asked one question. MiB that each process has to itself; state: MiB of the
            journal's directory."""
        ),
        paragraph(kept.conditions),
        table(("sessions", *processes, "state"), rows),
    )


def image(kept: Kept) -> str:
    data = kept.data
    sizes = [layer["megabytes"] for layer in data["layers"]]
    return section(
        "The container image",
        paragraph(
            f"""`python -m bench.image`: {sum(sizes) / 1000:.2f} GB in {len(sizes)} layers, the
            largest, torch with its libraries, {max(sizes) / 1000:.2f} GB. From `docker run` to the
            first answer {spread(data["seconds_to_first_answer"])} s, {data["num_runs"]} runs."""
        ),
        paragraph(kept.conditions),
    )


def _p50(values: dict[str, float]) -> str:
    return number(values["p50"])
