"""The language model between hearing and speaking: decoder, weights, sampling, text in and out, and its engine."""
