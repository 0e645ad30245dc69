//! The steps of one rank in their order: plans and masks in, results out.
//!
//! A step that waits for its masks keeps the plan behind it waiting. A device could take most of
//! these, but to begin many slots waits for the steps before, and nobody would be left to take the
//! masks; and holding it costs little, since the device draws in the meantime. Deliberately absent:
//! the link, and what a step does.

use std::collections::VecDeque;

use binfer_proto::{Masks, MasksError, Plan, PlanError, STEPS_IN_FLIGHT_MAX, StepResult};

use crate::engine::{Engine, EngineError, InFlight, Launched, Waiting};

/// See the module.
pub struct Steps<'a> {
    engine: &'a mut Engine,
    in_flight: VecDeque<InFlight>,
    /// Behind those in flight.
    waiting: Option<Waiting>,
    /// Behind the one that waits.
    held: Option<Plan>,
}

impl<'a> Steps<'a> {
    /// None yet.
    pub fn new(engine: &'a mut Engine) -> Self {
        Self { engine, in_flight: VecDeque::new(), waiting: None, held: None }
    }

    /// Whether [`Self::advance`] may have a result without anything new.
    pub fn are_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// The oldest step's result, if it is over; waits for it while no other may be launched. If there
    /// is none, launches the plan that was held as long as it had to be.
    pub fn advance(&mut self) -> Result<Option<StepResult>, EngineError> {
        if self.is_over()? {
            return self.in_flight.pop_front().map(|step| self.engine.collect(step)).transpose();
        }
        if self.waiting.is_none()
            && let Some(plan) = self.held.take()
        {
            self.launch(&plan)?;
        }
        Ok(None)
    }

    /// Whether the oldest step is to be collected.
    fn is_over(&mut self) -> Result<bool, EngineError> {
        let launched = self.in_flight.len() + usize::from(self.waiting.is_some());
        match self.in_flight.front() {
            Some(oldest) => Ok(launched == STEPS_IN_FLIGHT_MAX || self.engine.is_done(oldest)?),
            None => Ok(false),
        }
    }

    /// Launches a plan's step, or keeps the plan.
    pub fn plan(&mut self, plan: Plan) -> Result<(), EngineError> {
        match (&self.waiting, &self.held) {
            (None, None) => return self.launch(&plan),
            (_, None) => self.held = Some(plan),
            (_, Some(held)) => {
                let cause =
                    format!("came while step {} waits for masks of the one before", held.step);
                return Err(PlanError { step: plan.step, cause }.into());
            }
        }
        Ok(())
    }

    /// Gives the step that waits its masks.
    pub fn masks(&mut self, masks: Masks) -> Result<(), EngineError> {
        let Some(waiting) = self.waiting.take() else {
            let cause = "no step waits for masks".to_owned();
            return Err(MasksError { step: masks.step, cause }.into());
        };
        self.in_flight.push_back(self.engine.masks(waiting, masks)?);
        Ok(())
    }

    /// Ends what is in flight; a step that waits is given up. What was measured, for people.
    pub fn end(self) -> Result<String, EngineError> {
        for step in self.in_flight {
            self.engine.collect(step)?;
        }
        Ok(self.engine.report())
    }

    fn launch(&mut self, plan: &Plan) -> Result<(), EngineError> {
        match self.engine.launch(plan)? {
            Launched::InFlight(step) => self.in_flight.push_back(step),
            Launched::Waiting(step) => self.waiting = Some(step),
        }
        Ok(())
    }
}
