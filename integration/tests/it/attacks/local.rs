//! Local interfaces (T22): admin pages and sockets from where they must not be used.
