"""Documents the compiled classes from their stub.

`sark_cache._core.compiled` defines stand-ins for installations without the compiled module. A tool
that reads only the source would document those. mkdocstrings loads this file as an extension of
Griffe.
"""

from typing import Any

import griffe


class CompiledClasses(griffe.Extension):
    """Puts the classes of the stub in the place of their stand-ins."""

    def on_package(self, *, pkg: griffe.Module, **_context: Any) -> None:  # noqa: ANN401
        """Once the package is read: every stand-in that the stub has a class for."""
        compiled, stub = pkg["_core"]["compiled"], pkg["_native"]
        for name in [name for name in stub.members if name in compiled.members]:
            for module in (compiled, pkg):
                if name in module.members:
                    module.del_member(name)
                    alias = griffe.Alias(name, target=f"{stub.path}.{name}", parent=module)
                    module.set_member(name, alias)
