//! Shared operations.
