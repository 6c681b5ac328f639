"""The parts of `benchmarks/strategies.py --tables`: strategies on learning curves that other people have recorded."""
