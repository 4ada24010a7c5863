"""The decorator that checks annotations: what it verifies, when it is off, and which module a warning names."""

import re
import warnings

import jaxtyping
import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintParamViolation
from jaxtyping import Float
from torch import Tensor

from tests.shape_checks import checked


@checked(typechecker=beartype)
def twice(number: int) -> int:
    return 2 * number


@checked(typechecker=beartype)
def added(x: Float[Tensor, " batch"], y: Float[Tensor, " batch"]) -> Tensor:
    return x + y


@checked(typechecker=beartype)
def quoted(x: "Float[Tensor, ' batch']", y: "Float[Tensor, ' batch']") -> Tensor:
    return x + y


@checked(typechecker=beartype)
def warning(number: int) -> None:
    warnings.warn("of the caller", stacklevel=2)


def test_a_function_of_the_package_is_verified():
    from rl4llm.checks import check_at_least

    with pytest.raises(BeartypeCallHintParamViolation):
        check_at_least(3, 1.0, number=2)


def test_types_and_shapes_are_verified():
    assert twice(2) == 4
    with pytest.raises(BeartypeCallHintParamViolation):
        twice("2")
    for function in (added, quoted):
        assert len(function(torch.zeros(2), torch.zeros(2))) == 2
        with pytest.raises(jaxtyping.TypeCheckError):
            function(torch.zeros(2), torch.zeros(1))


def test_nothing_is_verified_while_checks_are_off(unchecked_shapes):
    assert twice("2") == "22"
    assert len(added(torch.zeros(2), torch.zeros(1))) == 2


def test_a_warning_to_the_caller_does_not_name_the_package():
    with warnings.catch_warnings(record=True) as seen:
        warnings.filterwarnings("error", module=re.escape(__name__))
        warning(1)
    assert [str(one.message) for one in seen] == ["of the caller"]
