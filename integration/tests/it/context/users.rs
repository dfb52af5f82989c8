//! Users of real OpenID providers, and API clients with tokens of a CI system.
