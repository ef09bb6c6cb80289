/** The package's version, from package.json: two folders up from src/control and dist/control. */

import { readFileSync } from 'node:fs';

const packageJson = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
export const VERSION: string = (JSON.parse(packageJson) as { version: string }).version;
