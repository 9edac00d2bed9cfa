//! The tidewire.v1 services over the engines.
