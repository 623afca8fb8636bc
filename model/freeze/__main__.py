"""`python -m model.freeze`: what compiler and processor make of a ring of flags without an order."""

from __future__ import annotations

from model.freeze.compiler import LOOPS, after_the_flag, compile_program, outcome, stores_of_a_write
from model.freeze.orders import ORDERS, explore


def main() -> None:
    """Prints both."""
    print("The compiler, c++ -O2: a reader polls, a message is written, two seconds pass.")
    compile_program()
    for loop, what in LOOPS.items():
        print(f"  {what}: the reader {outcome(loop)}")
    stores = stores_of_a_write()
    if stores is None:
        print("  (its stores are looked at on x86-64 with objdump only)")
    else:
        print("  the stores of one write, plain: " + "; ".join(stores))
        late = after_the_flag(stores)
        print(f"  of these, after the flag that says that the message is complete: {'; '.join(late) or 'none'}")

    print("The processor: one chunk, three messages, every order that ARMv8 allows; what is ordered, what can happen.")
    for order in ORDERS:
        outcomes, states = explore(order)
        print(f"  {order.name} ({states:,} states):")
        for what, got in sorted(outcomes.items()):
            print(f"    {what}; e.g. the reader got {', '.join(got) or 'nothing at all'}")


main()
