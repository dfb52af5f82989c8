//! Real frameworks with OpenTelemetry, many users at once, never another one's context.
