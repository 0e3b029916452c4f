"""Our own tokenizer: a word is a token, and what is not a word of the world is <unk>.

Lower-casing and dropping of punctuation happen here, so that "Where is it?" and "where is it"
are the same tokens. Only the comma is kept, which answers use. White space never matters, and the
role words are tokens of their own: the tokens of a conversation are those of its pieces, one
after the other.
"""

from __future__ import annotations

from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
IMAGE, USER, ASSISTANT = "<image>", "USER:", "ASSISTANT:"
SPECIAL = (PAD, BOS, EOS, UNK, IMAGE, USER, ASSISTANT)
CONTEXT_LENGTH = 4096  # tokens

# All words of `grammar`, `questions` and `dialogue`; a test holds that none is missing. Their
# order is the order of the embeddings: append, never insert.
_WORDS = """
, a about above am an and another any anything are ask at below big bigger black blue bottom
brown bye can center centre circle circles color colour corner count cross crosses
day describe diamond diamonds do does drawn empty evening fewer five four good goodbye gray
green grey have heart hearts hello help hexagon hexagons hey hi how i image in
is it its kind know knows large larger left less list little lot lower many me
mean middle model more morning much name night no none nothing object objects of on one ones
only or orange other others oval ovals over picture pictures pink please
purple rectangle rectangles red right same see shape shapes show six size small smaller
something square squares star stars tell than thank thanks that the them there they thing
things this three tiny to top triangle triangles two under upper very welcome what where
which white who yellow yes you your yourself
"""
WORDS = tuple(_WORDS.split())

# Follows LLaVA-1.5's, with one difference: what is rendered for a turn never changes when more
# turns come. A rendering with the generation prompt, the answer and </s> together are the
# rendering of the longer conversation, character by character.
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
  {%- if message['role'] == 'user' -%}{{- 'USER: ' -}}
  {%- elif message['role'] == 'assistant' -%}{{- 'ASSISTANT: ' -}}
  {%- endif -%}
  {%- if message['content'] is string -%}{{- message['content'] -}}
  {%- else -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] == 'image' -%}{{- '<image>\\n' -}}{%- endif -%}
    {%- endfor -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- else -%}{{- ' ' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT: ' -}}{%- endif -%}
"""


@cache
def token_ids() -> dict[str, int]:
    """token -> id: special tokens first, then words."""
    return {token: number for number, token in enumerate((*SPECIAL, *WORDS))}


def encode(text: str) -> list[int]:
    """The ids of a text of the grammar (lower case, commas): as the tokenizer, but at once."""
    ids = token_ids()
    unknown = ids[UNK]
    return [ids.get(word, unknown) for word in text.replace(",", " , ").split()]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer as Hugging Face's libraries load it, with the chat template."""
    backend = Tokenizer(models.WordLevel(token_ids(), unk_token=UNK))
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    )
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex("['’]s\\b"), " is"),  # what's, where's
            normalizers.Replace(Regex("['’]"), ""),
            normalizers.Replace(",", " , "),
            normalizers.Replace(Regex("[^\\w,]+"), " "),
        ]
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # words are joined by spaces, but for the comma; a longer text always begins with the shorter
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=CONTEXT_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
