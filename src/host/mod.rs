//! The host side: what baton sets in this machine's kernel, and what it learns from it.
