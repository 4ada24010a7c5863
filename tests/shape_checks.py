"""Checks of annotations while the tests run: shapes by jaxtyping, everything else by beartype alone."""

import builtins
import functools
import inspect
import types

import jaxtyping

_with_shapes = jaxtyping.jaxtyped
_MISSING = object()


def checked(fn=_MISSING, *, typechecker):
    """Stand for `jaxtyping.jaxtyped`, which the import hook puts on every function of the package.

    That decorator binds the arguments of every call and verifies them twice, although most functions name no shape. A
    function whose annotations hold no shape gets the type checker alone, so tests of the loop take three fifths of the
    time.
    """
    if fn is _MISSING:
        return functools.partial(checked, typechecker=typechecker)
    if inspect.isfunction(fn) and not any(_may_hold_a_shape(hint) for hint in fn.__annotations__.values()):
        verified = typechecker(fn)
        return fn if verified is fn else _unless_disabled(fn, _of_this_module(verified))
    return _with_shapes(fn, typechecker=typechecker)


def _of_this_module(verified):
    """Move the checking frame here, so that a warning to a caller in the package is not taken for one of its faults."""
    here = {"__name__": __name__, "__builtins__": builtins}
    moved = types.FunctionType(verified.__code__, here, verified.__name__, verified.__defaults__, verified.__closure__)
    moved.__kwdefaults__ = verified.__kwdefaults__
    return moved


def _unless_disabled(fn, verified):
    """Return `verified`, or the function as it is while the fixture `unchecked_shapes` is in use."""

    @functools.wraps(fn)
    def either(*args, **options):
        return (fn if jaxtyping.config.jaxtyping_disable else verified)(*args, **options)

    return either


def _may_hold_a_shape(hint):
    """Whether it does; a name in quotation marks, which is looked up later, may."""
    return isinstance(hint, str) or "jaxtyping" in repr(hint)


def install():
    """Check the modules of the package that are imported from now on in this way."""
    jaxtyping.jaxtyped = checked
