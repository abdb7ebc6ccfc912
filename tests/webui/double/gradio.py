"""A stand-in for gradio that takes just the keywords that 3.41.2 and 4.40.0 share, and draws nothing."""

from types import SimpleNamespace

COMMON = {
    "value",
    "label",
    "info",
    "visible",
    "elem_id",
    "elem_classes",
    "interactive",
    "every",
    "show_label",
}
COMMON |= {"container", "scale", "min_width"}
LAYOUT = {"visible", "elem_id", "elem_classes"}
EVENTS = ("change", "click", "input", "select", "upload", "release", "submit", "load", "clear")


class SelectData:
    """What a handler of `select` is told."""


def update(**changes):
    return {"__type__": "update", **changes}


class Block:
    """Anything on the page; `children` are what was made while it was open."""

    open, keywords = [], set()

    def __init__(self, *args, **given):
        unknown = given.keys() - self.keywords
        if unknown:
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))} in both gradios")
        self.value = args[0] if args else given.get("value")
        self.label, self.elem_id, self.children = given.get("label"), given.get("elem_id"), []
        if Block.open:
            Block.open[-1].children.append(self)

    def __enter__(self):
        Block.open.append(self)
        return self

    def __exit__(self, *_):
        Block.open.pop()

    def __getattr__(self, name):
        if name in EVENTS:
            return lambda *args, **kwargs: None
        raise AttributeError(name)


def _made(name, keywords):
    globals()[name] = type(name, (Block,), {"keywords": keywords})


for _name in ("Row", "Group", "Tab", "Box"):
    _made(_name, LAYOUT | {"equal_height", "variant", "label", "id"})
_made("Column", LAYOUT | {"scale", "min_width", "variant"})
_made("Accordion", LAYOUT | {"label", "open"})
_made("Blocks", {"analytics_enabled", "title", "css", "theme", "mode"})
_made("Slider", COMMON | {"minimum", "maximum", "step", "randomize"})
_made("Checkbox", COMMON)
_made("Number", COMMON | {"precision", "minimum", "maximum", "step"})
_made(
    "Dropdown", COMMON | {"choices", "type", "multiselect", "allow_custom_value", "max_choices", "filterable"}
)
_made("Radio", COMMON | {"choices", "type"})
_made("Textbox", COMMON | {"lines", "max_lines", "placeholder", "type", "show_copy_button", "text_align"})
_made("HTML", COMMON - {"info", "container", "scale", "min_width", "interactive"})
_made("Image", COMMON - {"info"} | {"type", "height", "width", "show_download_button"})
_made("Plot", COMMON - {"info", "interactive"})
_made("Button", COMMON - {"info", "label", "show_label", "container"} | {"variant", "size", "icon", "link"})
_made(
    "Gallery",
    COMMON - {"info"}
    | {
        "columns",
        "rows",
        "height",
        "allow_preview",
        "preview",
        "object_fit",
        "show_share_button",
        "show_download_button",
        "selected_index",
    },
)
_made("File", COMMON - {"info"} | {"file_count", "file_types", "type", "height"})
_made("State", {"value"})
context = SimpleNamespace(Context=SimpleNamespace(root_block=Blocks()))  # noqa: F821 (made above)
