//! The engine: one pass over a tree or stream, into frames.
