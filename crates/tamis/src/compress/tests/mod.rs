//! Tests that span several files of `compress`: the sweep against its oracle, relations
//! between methods on synthetic layers, and agreement with an outside implementation.
//! See arXiv 2210.17323 and 2306.03078 for what is being checked.

mod timing;
