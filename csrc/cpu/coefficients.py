"""Makes the coefficients of exp and tanh in vec.h: python csrc/cpu/coefficients.py (needs mpmath).

A polynomial p takes the place of a function g within e^r = 1 + r + r^2 g(r) and within
tanh x = x + x^3 g(x^2). It equals g at Chebyshev's extremal points, which spreads the error over
the whole interval: the relative error of e^r or tanh x is about twice that of the best polynomial
of this degree, which Remez's exchange would find. No result shows the difference, because rounding
costs more than ten times as much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mpmath import mp, mpf

mp.dps = 60
SPARE = mpf("1.0005")  # r lies a little beyond ln(2) / 2 where its multiple of ln 2 is rounded
HALF = mpf("0.5494")  # kHalf of vec.h: tanh x is 1/2 at 0.549306...


def interpolate(g: Callable[[mpf], mpf], points: Sequence[mpf]) -> list[mpf]:
    """The coefficients of the polynomial through g at these points, the constant term first."""
    powers = mp.matrix([[x**k for k in range(len(points))] for x in points])
    return list(mp.lu_solve(powers, mp.matrix([g(x) for x in points])))


def exp_terms(count: int) -> list[mpf]:
    """For |r| <= ln(2) / 2. At 0, which is left out, the factor r^2 makes e^r right by itself."""
    bound = mp.log(2) / 2 * SPARE
    cosines = [mp.cos(mp.pi * k / count) for k in range(count + 1) if 2 * k != count]
    return interpolate(lambda r: (mp.exp(r) - 1 - r) / r**2, [bound * c for c in cosines])


def tanh_terms(count: int) -> list[mpf]:
    """For tanh |x| <= 1/2, in s = x^2. At 0, which is left out, the factor x^3 does the same."""

    def g(s: mpf) -> mpf:
        x = mp.sqrt(s)
        return (mp.tanh(x) / x - 1) / s

    points = [(1 - mp.cos(mp.pi * k / count)) / 2 * HALF**2 for k in range(1, count + 1)]
    return interpolate(g, points)


def largest_error(name: str, p: Sequence[mpf]) -> mpf:
    """The relative error of the whole function, on a grid."""

    def error(x: mpf) -> mpf:
        if name == "kExp":
            return (1 + x + x**2 * mp.polyval(p[::-1], x)) / mp.exp(x) - 1
        return (x + x**3 * mp.polyval(p[::-1], x**2)) / mp.tanh(x) - 1

    low, high = (-mp.log(2) / 2, mp.log(2) / 2) if name == "kExp" else (mpf("1e-9"), HALF)
    return max(abs(error(x)) for x in mp.linspace(low, high, 1000))


def main() -> None:
    for kind, suffix, digits, exp_count, tanh_count in (
        ("float", "f", 12, 6, 5),
        ("double", "", 20, 10, 11),
    ):
        for name, p in {"kExp": exp_terms(exp_count), "kTanh": tanh_terms(tanh_count)}.items():
            numbers = ", ".join(mp.nstr(c, digits, min_fixed=-4) + suffix for c in p)
            error = mp.nstr(largest_error(name, p), 2)
            print(f"static constexpr {kind} {name}[] = {{{numbers}}};  // to {error}")


if __name__ == "__main__":
    main()
