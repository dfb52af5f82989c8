# What a newcomer types. Everything else is `cargo xtask` (see CONTRIBUTING.md).

.PHONY: help demo test bench ci

help:                ## what can be made
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+): *## */  make \1\t/'

demo:                ## the whole story on this machine; stays up until Ctrl-C; ONCE=1 ends after it
	@cargo build --locked --profile e2e --bins --package countersign-proxy --package countersign-cli
	@"$$(cargo xtask bin)/countersign" demo $(if $(ONCE),--once)

test:                ## every test; SUITE=unit, foundation, interception, identity, context or soak for one suite
	@cargo xtask test $(or $(SUITE),all)

bench:               ## side by side with Envoy; QUICK=1 for a short run
	@cargo xtask bench $(if $(QUICK),quick)

ci:                  ## what CI runs
	@cargo xtask ci
