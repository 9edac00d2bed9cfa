//! Venues, aggregation, market overview, record and replay.
