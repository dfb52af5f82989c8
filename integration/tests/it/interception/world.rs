//! The world of network namespaces itself: what it promises the other tests.
