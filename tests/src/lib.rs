//! The netns lab for the end-to-end tests, the demo and the benches.
