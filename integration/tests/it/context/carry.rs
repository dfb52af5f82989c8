//! Contexts find their way through applications that know nothing about them.
