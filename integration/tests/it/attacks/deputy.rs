//! The confused deputy (T5): the context of one user for the work of another.
