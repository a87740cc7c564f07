"""A chat template for servers that renders a conversation as training rendered the prompts of conversations."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydralora.data import Frame

# The rules of `analysis.sources.chat.prompt_of`: speakers are named only after an answer or a tool's result.
TEMPLATE = """\
{%- set answered = messages[-1].role == "assistant" -%}
{%- set turns = messages[:-1] if answered else messages -%}
{%- set spoken = namespace(named=false) -%}
{%- for message in turns if message.role in ["assistant", "tool"] -%}{%- set spoken.named = true -%}{%- endfor -%}
{%- set labels = {"user": "User: ", "assistant": "Assistant: ", "tool": "Tool: "} -%}
{%- macro text(message) -%}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}
{%- for part in message.content or [] -%}{{- "\\n" if not loop.first -}}{{- part.text or "" -}}{%- endfor -%}
{%- endif -%}
{%- for call in message.tool_calls or [] -%}
{%- set made = call.function or call -%}
{{- "\\n" if message.content or not loop.first -}}
{{- '<tool_call>\\n{"name": ' ~ made.name | tojson ~ ', "arguments": ' -}}
{{- made.arguments if made.arguments is string else made.arguments | tojson -}}
{{- "}\\n</tool_call>" -}}
{%- endfor -%}
{%- endmacro -%}
{{- BEFORE -}}
{%- for message in turns -%}
{{- "\\n\\n" if not loop.first -}}
{{- labels.get(message.role, "") if spoken.named -}}
{{- text(message) -}}
{%- endfor -%}
{{- BETWEEN -}}
{{- text(messages[-1]) if answered -}}
"""


def chat_template(frame: "Frame") -> str:
    """The Jinja template of a frame, for `vllm serve --chat-template` and llama.cpp's `--chat-template-file`."""
    before = ("bos_token ~ " if frame.add_bos else "") + _literal(frame.before)
    return TEMPLATE.replace("BEFORE", before).replace("BETWEEN", _literal(frame.between))


def _literal(text: str) -> str:
    """A string of Jinja, which reads escapes as Python does."""
    return '"' + text.encode("unicode_escape").decode().replace('"', '\\"') + '"'
