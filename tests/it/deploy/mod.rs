//! The files in `deploy/`: each is run or checked by the program that it is written for.

mod asyncapi;
mod broker;
mod container;
mod database;
mod debian;
mod documents;
mod examples;
mod kubernetes;
mod manifests;
mod monitoring;
mod rolling;
mod runbook;
mod systemd;
mod talk;
mod tls;
