//! Polls of a room that has not changed.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{OWNER, Server, constant::Constant, load::rate};
use crate::{
    options::{Options, Section},
    report::{Figure, Goal, Report, Unit},
    support::app::PASSWORD,
};

pub(super) async fn run(server: &Server, options: &Options, report: &mut Report) {
    let guest = &server.join(1).await[0];
    let login = STANDARD.encode(format!("{OWNER}:{PASSWORD}"));
    let login = format!("\r\nAuthorization: Basic {login}");
    let polls = [
        ("by a user", server.request(&server.owner, &login).await),
        (
            "by a guest",
            server.request(&guest.client, &format!("\r\nCookie: {}", guest.cookie)).await,
        ),
    ];
    let constant = Constant::start().await;
    let time = options.polling_time();
    let mut rates = [Vec::new(), Vec::new()];
    let mut limits = Vec::new();
    for _ in 0..options.runs() {
        limits.push(rate(constant.port, &polls[0].1, "304", time).await);
        for ((_name, request), rates) in polls.iter().zip(&mut rates) {
            rates.push(rate(server.api.http_port, request, "304", time).await);
        }
    }
    for ((name, _request), rates) in polls.iter().zip(&rates) {
        let name = format!("polls {name}, nothing changed (limit: constant 304)");
        let figure = Figure::new(Section::Api, name, Unit::PerSecond, rates).beside(&limits);
        report.add(figure.goal(Goal::RatioAtLeast(0.7)));
    }
}
