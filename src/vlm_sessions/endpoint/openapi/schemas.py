"""pydantic's models as JSON Schema 2020-12, which is what OpenAPI 3.1 holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema
from pydantic_core import core_schema

Schema = dict[str, Any]
Field = core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField

_REFERENCE = "#/components/schemas/{model}"


class _Generator(GenerateJsonSchema):
    """Without a title for each field; tags of requests are required."""

    def field_title_should_be_set(self, schema: object) -> bool:
        del schema
        return False

    def field_is_required(self, field: Field, total: bool) -> bool:
        # A command's ``type`` has a default for our own code; in JSON it tells what is asked.
        inner = field["schema"]
        is_tag = inner["type"] == "default" and inner["schema"]["type"] == "literal"
        return (is_tag and self.mode == "validation") or super().field_is_required(field, total)


def schemas_of(models: Iterable[type[BaseModel]], mode: JsonSchemaMode) -> dict[str, Schema]:
    """Name -> schema, of the models and of all that they hold."""
    _, defined = models_json_schema(
        [(model, mode) for model in models],
        ref_template=_REFERENCE,
        schema_generator=_Generator,
    )
    return dict(defined["$defs"])


def ref(model: type[BaseModel] | str) -> Schema:
    """A reference to a model's schema among the components."""
    name = model if isinstance(model, str) else model.__name__
    return {"$ref": _REFERENCE.format(model=name)}


def one_of(schemas: Sequence[Schema]) -> Schema:
    return {"oneOf": list(schemas)}


def any_of(schemas: Sequence[Schema]) -> Schema:
    return {"anyOf": list(schemas)}


def told_apart(tag: str, models: Mapping[str, type[BaseModel]]) -> Schema:
    """One of these models, by its field ``tag``; ``models`` are its value -> model."""
    return {
        "oneOf": [ref(model) for model in models.values()],
        "discriminator": {
            "propertyName": tag,
            "mapping": {value: ref(model)["$ref"] for value, model in models.items()},
        },
    }
