//! Deferred grants through a real broker, begin and end on the local API.
