"""Shows the reference the compiled classes as their stub has them.

`sark_cache._core.compiled` has stand-ins for where the compiled module is missing, and who reads the
source alone takes these for the classes. Loaded by mkdocstrings as an extension of Griffe.
"""

from typing import Any

import griffe


class CompiledClasses(griffe.Extension):
    """Puts the classes of the stub in the place of their stand-ins."""

    def on_package(self, *, pkg: griffe.Module, **_context: Any) -> None:  # noqa: ANN401
        """Once the package is read: every stand-in that the stub has a class for."""
        compiled, stub = pkg["compiled"], pkg["_native"]
        for name in [name for name in stub.members if name in compiled.members]:
            for module in (compiled, pkg):
                if name in module.members:
                    module.del_member(name)
                    alias = griffe.Alias(name, target=f"{stub.path}.{name}", parent=module)
                    module.set_member(name, alias)
