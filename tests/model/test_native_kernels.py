"""The kernels in C give what torch's give, those for lesser processors too."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vlm_sessions.model.attention.piece_kernels import two_products
from vlm_sessions.model.native import build
from vlm_sessions.model.native.build import VARIANTS, Variant
from vlm_sessions.model.native.library import (
    MAX_ROWS,
    STEPS_8_BITS,
    Library,
    load_library,
)
from vlm_sessions.model.text.operations import NativeOperations, Operations, TorchOperations

COMPILER = shutil.which("cc")
BUILT = build.usable()
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""Of a sum of a thousand products, by the size of its terms."""

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler here")


@needs_compiler
def test_where_there_is_a_compiler_the_kernels_are_built() -> None:
    assert BUILT
    assert load_library() is not None


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("num_out", "num_in"), [(16, 32), (48, 96), (304, 64), (512, 1024)])
def test_a_product_is_what_it_is_by_torch_for_any_number_of_rows(
    library: Library, num_out: int, num_in: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(num_out, num_in).to(dtype)
    for num_rows in range(1, MAX_ROWS + 1):
        rows = torch.randn(num_rows, num_in).to(dtype)
        product = library.linear(rows, weight)
        expected = rows.double() @ weight.double().T
        assert product.dtype is dtype
        difference = (product.double() - expected).abs() / (1 + expected.abs())
        assert difference.max() < TOLERANCE[dtype] * math.sqrt(num_in / 32)


@pytest.mark.parametrize(("num_out", "num_in"), [(48, 96), (16, 64), (304, 128), (512, 1024)])
def test_a_product_with_a_weight_in_8_bits_is_as_near_as_it_says(
    library: Library, num_out: int, num_in: int
) -> None:
    torch.manual_seed(0)
    weight = torch.randint(-127, 128, (num_out, num_in), dtype=torch.int8)
    weight[0, :3] = torch.tensor([-127, 127, 0])
    for num_rows in (*range(1, 36), MAX_ROWS):
        rows = torch.randn(num_rows, num_in) * 10 ** (20 * torch.rand(num_rows, 1) - 10)
        product = library.linear_8_bits(rows, weight)
        expected = rows.double() @ weight.double().T
        assert product.dtype is torch.float32
        largest, total = rows.double().abs().amax(dim=1), weight.double().abs().sum(dim=1)
        most = torch.outer(largest, total) * (0.5 / STEPS_8_BITS + 1e-5)
        assert ((product.double() - expected).abs() <= most).all()


def test_a_row_in_8_bits_that_is_not_finite_or_hardly_there_spoils_no_other(
    library: Library,
) -> None:
    weight = torch.ones(16, 64, dtype=torch.int8)
    rows = torch.ones(6, 64)
    rows[0, 1], rows[1, 2], rows[2, 3] = float("inf"), float("nan"), float("-inf")
    rows[3], rows[4] = 0, 1e-42
    product = library.linear_8_bits(rows, weight)
    assert not product[:3].isfinite().any()
    assert (product[3] == 0).all()
    small = product[4]  # where it cannot be told it is no number
    assert (small.isnan() | ((small - 64e-42).abs() < 1e-42)).all()
    assert torch.allclose(product[5], torch.tensor(64.0), rtol=1e-4)


def test_a_product_goes_through_infinities_and_what_is_no_number(library: Library) -> None:
    weight = torch.ones(16, 32, dtype=torch.bfloat16)
    rows = torch.zeros(3, 32, dtype=torch.bfloat16)
    rows[0, 1], rows[1, 2] = float("inf"), float("nan")
    infinite, undefined, plain = library.linear(rows, weight)
    assert infinite.isinf().all()
    assert undefined.isnan().all()
    assert (plain == 0).all()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("num_rows", [1, 8, 20])
def test_a_bias_and_other_rows_are_added(
    library: Library, num_rows: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    rows, weight = torch.randn(num_rows, 64).to(dtype), torch.randn(48, 64).to(dtype)
    bias, others = torch.randn(48).to(dtype), torch.randn(num_rows, 48).to(dtype)
    product = rows.double() @ weight.double().T
    for added, more in ((bias, None), (None, others), (bias, others)):
        expected = product.clone()
        for term in (added, more):
            if term is not None:
                expected += term.double()
        result = library.linear(rows, weight, added, more).double()
        assert ((result - expected).abs() / (1 + expected.abs())).max() < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("num_rows", [5, 200])
def test_norm_rotation_and_gate_are_what_they_are_by_torch(
    library: Library, num_rows: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    both: tuple[Operations, ...] = (NativeOperations(library), TorchOperations())
    rows, weight = torch.randn(num_rows, 128).to(dtype), torch.randn(128).to(dtype)
    for extreme in (1.0, 100.0):
        pairs = [(o.norm(rows * extreme, weight, 1e-5), o.gate(rows * extreme)) for o in both]
        for native, torchs in zip(*pairs, strict=True):
            difference = (native - torchs).abs() / (1 + torchs.abs())
            assert difference.max() < TOLERANCE[dtype]
    angles = torch.rand(num_rows, 16) * 6
    cos, sin = torch.cat((angles, angles), -1).cos(), torch.cat((-angles, angles), -1).sin()
    heads = torch.randn(num_rows, 4, 32).to(dtype)
    turned = [heads.clone(), heads.clone()]
    for operations, some in zip(both, turned, strict=True):
        rotation = operations.rotation(cos.to(dtype), sin.to(dtype))
        operations.rotate_(some[:, :3], rotation)
    assert (turned[0] - turned[1]).abs().max() < TOLERANCE[dtype] * 4
    assert torch.equal(turned[0][:, 3], heads[:, 3]), "not among those to be turned"
    assert not torch.equal(turned[0], heads)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_what_is_stored_is_rounded_as_torch_rounds_it_infinite_or_no_number(
    library: Library, dtype: torch.dtype
) -> None:
    numbers = (1 + torch.arange(128).reshape(4, 32) / 128).to(dtype)
    numbers[0, :4] = torch.tensor([float("inf"), float("-inf"), float("nan"), -1.5])
    gate = torch.full_like(numbers, 33)  # whose sigmoid is 1: products are exact before rounding
    result = library.gate(torch.cat((gate, numbers), dim=1))
    torch.testing.assert_close(
        result, (33 * numbers.float()).to(dtype), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 256])
@pytest.mark.parametrize("length", [1, 15, 64, 65, 200, 512, 700, 1024, 1099])
def test_attention_is_what_it_is_by_two_products(
    library: Library, length: int, head_dim: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    pool = torch.randn(2, 3, 1200, head_dim).to(dtype)
    keys, values = pool.narrow(2, 50, length)
    for num_rows in (*range(1, 10), 16, 17, 35):
        queries = torch.randn(num_rows, 3, head_dim).to(dtype).transpose(0, 1)
        attended, sums = library.attend(queries, keys, values, head_dim**-0.5)
        expected, expected_sums = two_products(
            queries.float(), keys.float(), values.float(), head_dim**-0.5, False
        )
        assert (attended.float() - expected).abs().max() < TOLERANCE[dtype]
        assert (sums - expected_sums).abs().max() < TOLERANCE[dtype]


def test_scores_far_apart_leave_only_the_largest(library: Library) -> None:
    keys = torch.zeros(1, 130, 32)
    keys[0, :, 0] = torch.arange(130.0) * 100
    values = torch.randn(1, 130, 32)
    queries = torch.zeros(1, 1, 32)
    queries[0, 0, 0] = 1
    attended, sums = library.attend(queries, keys, values, 1.0)
    assert torch.equal(attended[0, 0], values[0, 129])
    assert sums.item() == pytest.approx(12900.0)


def test_threads_change_nothing(library: Library) -> None:
    torch.manual_seed(0)
    rows, weight = torch.randn(100, 64), torch.randn(272, 64)
    angles = torch.rand(100, 64)
    narrow = rows.bfloat16(), weight.bfloat16()
    numbers = torch.randint(-127, 128, (272, 64), dtype=torch.int8)
    keys, values = torch.randn(2, 8, 100, 64)
    before = torch.get_num_threads()
    results = []
    try:
        for num_threads in (1, 3):
            torch.set_num_threads(num_threads)
            turned = rows[:, None].clone()
            library.rotate_(turned, angles.cos(), angles.sin())
            results.append(
                (
                    turned,
                    library.attend(keys[:, :2], keys, values, 0.125)[0],
                    library.norm(rows, weight[0], 1e-5),
                    library.gate(rows),
                    *(library.linear(rows[:n], weight) for n in (1, 5)),
                    *(library.linear(narrow[0][:n], narrow[1]) for n in (1, 5, 40)),
                    *(library.linear_8_bits(rows[:n], numbers) for n in (1, 5)),
                )
            )
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


def test_what_does_not_fit_the_kernels_is_told_before() -> None:
    library = load_library()
    if library is None:
        pytest.skip("the kernels are not built")
    assert library.multiplies(torch.empty(32, 64))
    assert not library.multiplies(torch.empty(32, 48))
    assert not library.multiplies(torch.empty(40, 64))
    assert not library.multiplies(torch.empty(64, 32).T)
    assert not library.multiplies(torch.empty(32, 64, dtype=torch.float16))
    assert library.attends(torch.bfloat16, 128)
    assert not library.attends(torch.bfloat16, 80)
    assert not library.attends(torch.float32, 512)


def test_a_processor_gets_only_what_it_can_run(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nflags\t\t: fpu avx2 fma f16c bmi1 bmi2 movbe\n\nprocessor\t: 1\n"
    )
    flags = build.processor_flags(cpuinfo)
    assert [v.name for v in VARIANTS["x86_64"] if v.needs <= flags] == ["avx2"]
    assert build.processor_flags(tmp_path / "absent") == frozenset()


def test_a_library_that_cannot_be_loaded_says_so(tmp_path: Path) -> None:
    path = tmp_path / "amx.so"
    path.write_bytes(b"not a library")
    with pytest.raises(OSError, match=r"amx\.so"):
        Library(path)


def test_without_a_compiler_the_build_says_how_to_get_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vlm_sessions.model.native.build"],
        env={"CC": str(tmp_path / "none"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "apt-get install gcc" in done.stderr


def test_a_library_of_other_sources_is_not_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variant in build.variants():
        build.library_path(variant, tmp_path).touch()
    assert build.usable(tmp_path)
    monkeypatch.setattr(build, "sources_digest", lambda: "of others")
    assert not build.usable(tmp_path)


@needs_compiler
def test_a_source_that_does_not_compile_shows_the_compilers_words(tmp_path: Path) -> None:
    assert COMPILER is not None
    with pytest.raises(subprocess.CalledProcessError) as caught:
        build.build(COMPILER, Variant("amx", ("-mno-such-flag",)), tmp_path)
    assert "no-such-flag" in caught.value.stderr
    assert not any(tmp_path.glob("*.so"))
