//go:build tools

// Package tools pins what the test-bed builds; `cargo xtask testbed` builds it into the cache.
package tools

import _ "github.com/summerwind/h2spec/cmd/h2spec"
