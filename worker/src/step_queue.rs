//! The steps of one rank in their order: plans and masks in, results out.
//!
//! The plan behind a step that waits for its masks is held. A device could launch most of such
//! plans, but to open many slots waits for the steps before, and nobody would be left to take the
//! masks. To hold the plan costs little, since the device samples in the meantime.

use std::collections::VecDeque;

use binfer_proto::{Masks, MasksError, Plan, PlanError, STEPS_IN_FLIGHT_MAX, StepResult};

use crate::engine::{Engine, EngineError, LaunchedStep, MaskedStep, StepInFlight};

/// Steps in flight, the one that waits for its masks, and the plan behind it.
pub struct StepQueue<'a> {
    engine: &'a mut Engine,
    in_flight: VecDeque<StepInFlight>,
    /// The step behind those in flight, which waits for its masks.
    waiting: Option<MaskedStep>,
    /// The plan behind the step that waits.
    held: Option<Plan>,
}

impl<'a> StepQueue<'a> {
    /// A queue without steps.
    pub fn new(engine: &'a mut Engine) -> Self {
        Self { engine, in_flight: VecDeque::new(), waiting: None, held: None }
    }

    /// Says whether [`Self::advance`] may have a result without another message.
    pub fn are_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// The oldest step's result, if the step is over. Where no other step may be launched, it waits
    /// for the result. Without a result it launches the plan that is held, if nothing holds it any
    /// more.
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

    /// Says whether the oldest step is to be collected.
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

    /// Gives its masks to the step that waits.
    pub fn masks(&mut self, masks: Masks) -> Result<(), EngineError> {
        let Some(waiting) = self.waiting.take() else {
            let cause = "no step waits for masks".to_owned();
            return Err(MasksError { step: masks.step, cause }.into());
        };
        self.in_flight.push_back(self.engine.masks(waiting, masks)?);
        Ok(())
    }

    /// Ends what is in flight, and returns what was measured, for people. A step that waits is
    /// given up.
    pub fn end(self) -> Result<String, EngineError> {
        for step in self.in_flight {
            self.engine.collect(step)?;
        }
        Ok(self.engine.report())
    }

    fn launch(&mut self, plan: &Plan) -> Result<(), EngineError> {
        match self.engine.launch(plan)? {
            LaunchedStep::InFlight(step) => self.in_flight.push_back(step),
            LaunchedStep::Waiting(step) => self.waiting = Some(step),
        }
        Ok(())
    }
}
