//! `lobbyd talk`: beside a Nextcloud Talk, which opens its rooms when lobbyd reads them.

use clap::{Args, Subcommand};
use lobbyd::app;
use lobbyd::config::Config;
use lobbyd::domain::RoomToken;

/// Has Talk open its rooms on time, until it is stopped. The section `talk` of the configuration
/// says where Talk is; deploy/talk/README.md explains each step.
#[derive(Debug, Args)]
pub(super) struct Talk {
    #[command(subcommand)]
    pub(super) command: Option<TalkCommand>,
}

#[derive(Debug, Subcommand)]
pub(super) enum TalkCommand {
    /// Try Talk's database, its address and the secret, and say what has to be set where
    Check {
        /// Room to read, instead of one whose timer is not due: if its timer is over, Talk opens it
        #[arg(value_parser = super::publish::token)]
        token: Option<RoomToken>,
    },
}

impl TalkCommand {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let Self::Check { token } = self;
        super::print_answers(app::check_talk(config, token.as_ref()).await?, false)
    }
}
