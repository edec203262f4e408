"""HTML without templates: elements whose text is always escaped, and a page that needs nothing.

>>> element("p", "a < b ", element("b", "& c"), class_="note")
'<p class="note">a &lt; b <b>&amp; c</b></p>'
"""

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

__all__ = ["Html", "breakable", "definitions", "element", "grid", "page", "picture"]

_EMPTY: Final = {"br", "img", "meta", "wbr", "col"}  # elements without content and end tag

_REM_PER_PIXEL: Final = 0.0457  # so that texts in pictures are about as large as captions

# Nothing may be loaded from anywhere: what a page shows, it brings along.
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """HTML that is escaped already. Everything else counts as text."""

    __slots__ = ()


def element(name: str, /, *content: str, **attributes: str | int | None) -> Html:
    """An HTML element. Text is escaped, `Html` is not; `class_` is the attribute `class`.

    An attribute that is None is left out; underscores in names of attributes are dashes.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{joined(content)}</{name}>")


def joined(content: Iterable[str]) -> Html:
    """Texts and HTML one after the other."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in content))


def breakable(text: str) -> Html:
    """Text that may break behind commas, colons and equal signs, as labels of schedules need."""
    parts = re.split(r"(?<=[,:=])(?=\S)", text)
    return Html(str(element("wbr")).join(html.escape(part) for part in parts))


def definitions(of: Mapping[str, object]) -> Html:
    """A list of names and values."""
    rows = (
        element("div", element("dt", str(name)), element("dd", breakable(str(value))))
        for name, value in of.items()
    )
    return element("dl", *rows)


def grid(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> Html:
    """A table; the first cell of each row names it."""
    titles = element("tr", *(element("th", title, scope="col") for title in head))
    body = (
        element("tr", element("th", row[0], scope="row"), *(element("td", c) for c in row[1:]))
        for row in rows
    )
    table = element(
        "table",
        element("caption", caption),
        element("thead", titles),
        element("tbody", *body),
        class_="texts",
    )
    return element("div", table, class_="wide")


def picture(png: bytes, name: str, alt: str, caption: str) -> Html:
    """A picture that is part of the page, and links to its own file of this name beside it."""
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))  # of PNG's header
    data = base64.b64encode(png).decode()
    shown = element(
        "img",
        src=f"data:image/png;base64,{data}",
        alt=alt,
        width=width,
        height=height,
        style=f"max-width: {width * _REM_PER_PIXEL:.1f}rem",
    )
    link = element("a", name, href=name)
    return element("figure", shown, element("figcaption", caption, " ", Html("("), link, ")"))


def page(title: str, *content: str) -> str:
    """A whole document in HTML5, in English."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", title),
        element("style", Html(_STYLE)),
    )
    body = element("body", element("main", *content))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


_STYLE: Final = """
:root {
  color-scheme: light dark;
  --ink: #1b1f24; --muted: #59626d; --line: #d9dde2; --paper: #ffffff; --tint: #f4f6f8;
  --accent: #1f4e79;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e7ea; --muted: #9ca6b1; --line: #363d45; --paper: #14171b; --tint: #1d2228;
    --accent: #8ec3eb;
  }
  img { filter: brightness(0.92); }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 74rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 0.75rem; letter-spacing: -0.01em; }
h2 {
  font-size: 1.4rem; line-height: 1.25; margin: 3.25rem 0 0.75rem; padding-top: 0.9rem;
  border-top: 2px solid var(--ink);
}
h3 { font-size: 1.15rem; margin: 2.25rem 0 0.5rem; overflow-wrap: anywhere; }
p, ul, ol { max-width: 46rem; margin: 0.6rem 0; }
li { margin: 0.3rem 0; }
a { color: var(--accent); text-underline-offset: 0.15em; }
.lead { font-size: 1.15rem; }
.muted, figcaption, caption { color: var(--muted); font-size: 0.9rem; }
nav { margin: 1.25rem 0; font-size: 0.95rem; }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 0.2rem 1.25rem; }
nav li { margin: 0; }
nav ul, figcaption { max-width: none; }
dl {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr));
  gap: 0.6rem 1.5rem; margin: 1.25rem 0; padding: 1rem 1.25rem;
  background: var(--tint); border-radius: 6px;
}
dt { color: var(--muted); font-size: 0.8rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: 1.25rem 0; }
table {
  border-collapse: collapse; font-size: 0.84rem; line-height: 1.35;
  font-variant-numeric: tabular-nums;
}
caption { caption-side: bottom; text-align: left; padding-top: 0.6rem; }
.wide + .muted, .muted + .muted { margin: 0.25rem 0; }
.wide:has(+ .muted) { margin-bottom: 0; }
th, td { padding: 0.4rem 0.42rem; text-align: right; vertical-align: top; }
th { font-weight: 600; }
thead th { vertical-align: bottom; }
thead tr:last-child { border-bottom: 1.5px solid var(--ink); }
tbody tr { border-bottom: 1px solid var(--line); }
.texts thead th { text-align: left; }
th[scope=colgroup] { text-align: center; border-bottom: 1px solid var(--line); }
tbody th, thead tr:first-child th:first-child { text-align: left; padding-left: 0; }
.results tbody th { min-width: 7rem; }
.results td { white-space: nowrap; }
.first { padding-left: 0.9rem; }
.texts td { text-align: left; }
.measured { font-weight: 600; }
sup { font-weight: 400; line-height: 0; }
figure { margin: 1.25rem 0 1.75rem; }
img {
  display: block; width: 100%; height: auto; background: #ffffff;
  border: 1px solid var(--line); border-radius: 6px; padding: 0.6rem;
}
figcaption { margin-top: 0.45rem; }
footer { margin-top: 3.5rem; padding-top: 0.9rem; border-top: 1px solid var(--line); }
@media print {
  :root {
    --ink: #000000; --muted: #444444; --line: #cccccc; --paper: #ffffff; --tint: #f4f4f4;
    --accent: #000000;
  }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  .wide { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: 0.25rem 0.3rem; }
  figure, tr, dl { break-inside: avoid; }
  h2, h3, h3 + .muted { break-after: avoid; }
  img { filter: none; border: 0; padding: 0; }
}
"""
