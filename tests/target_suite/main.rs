//! Every kind of target is held against one suite of clauses.

mod directory;
mod suite;
