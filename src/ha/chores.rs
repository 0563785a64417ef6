//! What an operator asks of one member for its own Postgres: taken on, or refused with a reason.
//!
//! Nothing is done here. What was taken on is a wish among others, and `desire` fits it in where it
//! harms nobody: a fence, an election, a promotion come first.

use crate::env::Process;

use super::event::Chore;
use super::state::Core;

impl Core {
    /// What will be done, or why nothing is.
    pub(super) fn take_on(&mut self, chore: Chore) -> Result<String, String> {
        let answer = self.judge(chore);
        if answer.is_ok() {
            self.agent.chores.insert(chore);
        }
        answer
    }

    fn judge(&self, chore: Chore) -> Result<String, String> {
        let me = self.me;
        if !self.control.keeps_data(me) {
            return Err(format!("{me} keeps no data, so it has no Postgres"));
        }
        let runs = self.agent.seen().is_some_and(|seen| seen.process == Process::Up);
        let holder = self.control.primacy.holder;
        match chore {
            Chore::Restart | Chore::Reload if !runs => {
                Err(format!("the Postgres of {me} does not run"))
            }
            Chore::Restart => Ok(format!("{me} restarts its Postgres")),
            Chore::Reload => Ok(format!("the Postgres of {me} reads its files again")),
            Chore::Reinitialise if holder == Some(me) => {
                Err(format!("{me} holds primacy: its data are the ones that others copy"))
            }
            Chore::Reinitialise if holder.is_none() => {
                Err("nobody holds primacy, so there is nobody to copy from".into())
            }
            Chore::Reinitialise => {
                Ok(format!("{me} is copied anew; its present directory is set aside"))
            }
        }
    }
}
