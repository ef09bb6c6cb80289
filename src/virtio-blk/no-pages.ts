/**
 * The pages of a device that is not initialised: there are none, so every request is beyond the end.
 * Flush and GET_ID are answered, as of any disk.
 */

import { PAGE_FAILED, type PageResult } from '../base/page-operation.ts';
import type { PageDevice } from './page-device.ts';

const refuse = (): PageResult => PAGE_FAILED;

export const NO_PAGES: PageDevice = {
  slots: 0,
  isFull: false,
  punchedPages: 0,
  writePage: refuse,
  readPage: refuse,
  freePage: refuse,
  zeroPage: refuse,
  writePart: refuse,
  abandon() {},
};
