//! Real servers and seeded data for the tests of keyferry
