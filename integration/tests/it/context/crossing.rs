//! Context of another trust domain: made anew at the border, or refused.
