// All views, in the order of the navigation.

import { drift } from "./drift.js";
import { health } from "./health.js";
import { journal } from "./journal.js";
import { learner } from "./learner.js";
import { traffic } from "./traffic.js";
import { tree } from "./tree.js";
import { versions } from "./versions.js";

export const VIEWS = [health, drift, tree, learner, versions, traffic, journal];
