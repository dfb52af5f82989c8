//! Destinations, load balancing and resilience, against real endpoints that fail.
