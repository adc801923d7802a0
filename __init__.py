"""The door ComfyUI opens: hands on the nodes' entry point and the folder of help pages."""

if __package__:  # pytest imports this file alone, where a relative import has no parent
    from .nodes import comfy_entrypoint

    WEB_DIRECTORY = "./web"

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
