//! The real small model.
