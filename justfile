# Daily commands. `just` alone lists them.

_list:
    @{{just_executable()}} --list --unsorted

# Build the server as everyone first runs it
build:
    cargo build --release

# Run the server on the built-in sample data
sample:
    cargo run --release -- replay --loop

# Build the server as it ships: thin LTO and jemalloc
dist:
    cargo build --profile dist --features jemalloc

# Run one test, or all that match: `just test tidewire-price outlier`
test package filter="":
    cargo test -p {{package}} {{filter}}

# Run the end-to-end tests that match: `just e2e outages`
e2e filter="":
    cargo build --workspace --bins --tests
    cargo test --workspace --test behaviour {{filter}}

# Run every test of every language
test-all:
    tests/run

# Check formatting and lints
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cd clients/typescript && npm ci --silent && npm run lint && npm run typecheck

# Run a benchmark, or those that match: `just bench price kraken`
bench name filter="":
    cargo bench --workspace --bench {{name}} -- {{filter}}

# Measure the whole server over sockets, about 8 minutes
load:
    cargo build --profile dist --features tidewire/jemalloc -p tidewire -p tidewire-load
    ${CARGO_TARGET_DIR:-target}/dist/tidewire-load bars

# Build and open the API documentation
docs:
    cargo doc --workspace --no-deps --open

# Run the checks that a change must pass
ci:
    .ci/run

# Run the long lanes: memcheck, five minutes of load, a million operations on notifications
nightly:
    tests/nightly
