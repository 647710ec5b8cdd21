from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from fullconv.geometry import CoordMap

fractions = st.fractions(min_value=-50, max_value=50, max_denominator=8)
maps = st.builds(CoordMap, fractions.filter(lambda value: value > 0), fractions)


@given(maps, maps, maps)
def test_composition_is_associative(a, b, c):
    assert a.then(b).then(c) == a.then(b.then(c))


@given(maps)
def test_inverse_undoes(a):
    assert a.then(a.inverse()) == CoordMap() == a.inverse().then(a)


@given(maps, maps, st.integers(-100, 100))
def test_then_applies_the_first_map_first(a, b, x):
    assert a.then(b)(x) == b(a(x))


def test_numbers_are_kept_exact():
    pool = CoordMap(Fraction(2), Fraction(1, 2))
    assert pool.then(pool)(0) == Fraction(3, 2)
