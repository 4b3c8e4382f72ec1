"""The parts of the conformance kit, a file for each kind of proof."""
