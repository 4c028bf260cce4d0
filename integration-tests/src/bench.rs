//! Measures what the project promises to be fast. Ratios within one run are the figures to trust:
//! the load shares the processors with what it measures.

pub mod decide;
pub mod figures;
