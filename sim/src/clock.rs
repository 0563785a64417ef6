//! A machine's clocks: rate, jumps, and freezing with the machine.
