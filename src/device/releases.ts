/**
 * Letting go of what several things make up: the disk of a device, the device. From the first of it on
 * there is no way back, so what fails is told, and the rest is let go of all the same: what stays then is
 * memory, while whoever asked has to know that the thing is gone.
 */

import { AssertionError } from '../base/assert.ts';
import type { Report } from './reports.ts';

export function releaseAll(report: Report, releases: readonly (() => void)[]): void {
  for (const release of releases) {
    try {
      release();
    } catch (error) {
      if (error instanceof AssertionError) throw error;
      report('error', `not all memory could be freed: ${(error as Error).message}`);
    }
  }
}
