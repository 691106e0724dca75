"""torchvision, even where its compiled operators do not load, as beside another build of torch.

It then fails to import, and transformers with it, for it describes two operators that do not exist. glsnet needs
neither of them, nor does any language model, so they are declared.
"""

from contextlib import suppress
from typing import Any

_declared: list[Any] = []  # torch forgets the operators of a library that nothing refers to


def torchvision() -> Any:
    """The package; raises ImportError if it, or torch, is not installed."""
    import torch  # an extra, as torchvision is

    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        _declared.append(library)
        for operator in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, operator):
                schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                library.define(schema)  # type: ignore[no-untyped-call]
        import torchvision
    return torchvision


def before_transformers() -> None:
    """Let transformers, which imports torchvision where it is installed, be imported after this."""
    with suppress(ImportError):
        torchvision()
