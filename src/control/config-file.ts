/**
 * The daemon's configuration file: YAML, checked against a schema; errors name file, line and field.
 * Its settings are the command line's options by their names (options.ts).
 *
 *   socket-dir: /run/ramzswap      settings of the daemon
 *   budget: 8G
 *   defaults:                      of all devices
 *     pool-limit: 1G
 *   devices:                       a device each, with a disk from the start unless it says init: false
 *     web1: { disksize: 2G, guarantee: 256M }
 *     web2:
 */

import { readFileSync } from 'node:fs';
import { type Document, isNode, LineCounter, parseDocument, visit } from 'yaml';
import { z } from 'zod';
import { UsageError } from '../base/errors.ts';
import {
  checkName,
  DAEMON_OPTIONS,
  type DaemonOption,
  type DaemonSettings,
  DEVICE_OPTIONS,
  type DeviceSettings,
  parseSettings,
} from './options.ts';
import { deviceSettings, issueText, settingSchema } from './schema.ts';

const FILE_BYTES_MAX = 1 << 20;

/** What a file may say of the daemon: all but what is said of one device, or of one start. */
export const FILE_OPTIONS = [
  'socket-dir',
  'socket-group',
  'threads',
  'queue-threads',
  'budget',
  'store-dir',
  'fdstore',
  'control-path',
  'metrics',
  'log-level',
] as const satisfies readonly DaemonOption[];

const fileSchema = z.strictObject({
  ...Object.fromEntries(
    FILE_OPTIONS.map((name) => [name, settingSchema(DAEMON_OPTIONS[name]).optional()]),
  ),
  defaults: deviceSettings.nullish(),
  devices: z
    .record(z.string(), deviceSettings.extend({ init: z.boolean().optional() }).nullable())
    .nullish(),
});

export interface ConfigDevice {
  readonly settings: DeviceSettings;
  /** It gets its disk at the start. */
  readonly isInitialised: boolean;
  /** Where a setting of it is, for errors: its own, or one of the defaults. */
  readonly where: (option: string) => string;
  /** Its file and line only. */
  readonly place: (option: string) => string;
}

export interface ConfigFile {
  readonly path: string;
  readonly daemon: DaemonSettings;
  readonly defaults: DeviceSettings;
  readonly devices: ReadonlyMap<string, ConfigDevice>;
  /** Where a setting of the daemon is, for errors. */
  readonly where: (option: string) => string;
}

/** Throws UsageError with file, line, field. */
export function readConfigFile(path: string): ConfigFile {
  return parseConfig(readText(path), path);
}

export function parseConfig(text: string, path: string): ConfigFile {
  const lines = new LineCounter();
  const document = readDocument(text, path, lines);
  const [broken] = document.errors;
  if (broken !== undefined) {
    throw new UsageError(`${path}:${lines.linePos(broken.pos[0]).line}: ${broken.message}`);
  }
  const lineOf = (field: readonly PropertyKey[]) => lineOfField(document, lines, field);
  const at = (...field: string[]) => `${path}:${lineOf(field)}: ${field.join('.')}`;
  const checked = fileSchema.safeParse(contentsOf(document, path, lines), { reportInput: true });
  if (!checked.success) {
    const [issue] = checked.error.issues;
    const field = [...issue!.path, ...(issue!.code === 'unrecognized_keys' ? issue!.keys : [])];
    throw new UsageError(`${path}:${lineOf(field)}: ${issueText(issue!, 'the file')}`);
  }
  const { defaults, devices, ...daemon } = checked.data;
  const deviceEntries = Object.entries(devices ?? {}).map(([name, settings]) => {
    const { init = true, ...rest } = settings ?? {};
    const fieldOf = (option: string) => {
      const isOwn = document.hasIn(['devices', name, option]);
      const isDefault = !isOwn && document.hasIn(['defaults', option]);
      return isDefault ? ['defaults', option] : ['devices', name, option];
    };
    const where = (option: string) => at(...fieldOf(option));
    const place = (option: string) => `${path}:${lineOf(fieldOf(option))}`;
    checkName(name, `${path}:${lineOf(['devices', name])}: devices`);
    const parsed = parseSettings(DEVICE_OPTIONS, rest, where);
    return [name, { settings: parsed, isInitialised: init === true, where, place }] as const;
  });
  return {
    path,
    daemon: parseSettings(DAEMON_OPTIONS, daemon, (option) => at(option)),
    defaults: parseSettings(DEVICE_OPTIONS, defaults ?? {}, (option) => at('defaults', option)),
    devices: new Map(deviceEntries),
    where: (option) => at(option),
  };
}

function readText(path: string): string {
  try {
    const bytes = readFileSync(path);
    if (bytes.length <= FILE_BYTES_MAX) return bytes.toString('utf8');
    throw new UsageError(`${path}: expected ${FILE_BYTES_MAX} bytes at most, got ${bytes.length}`);
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`configuration file: ${(error as Error).message}`);
  }
}

/** Throws UsageError for what the parser gives up on, such as nesting that has no end. */
function readDocument(text: string, path: string, lineCounter: LineCounter): Document {
  try {
    return parseDocument(text, { lineCounter, prettyErrors: false });
  } catch (error) {
    throw new UsageError(`${path}: ${(error as Error).message}`);
  }
}

/** What it says, aliases replaced. Throws UsageError with the place of one that cannot be. */
function contentsOf(document: Document, path: string, lines: LineCounter): unknown {
  try {
    return document.toJS() ?? {};
  } catch (error) {
    let position = 0;
    visit(document, {
      Alias: (_, alias) => {
        position = alias.range?.[0] ?? position;
        return alias.resolve(document) === undefined ? visit.BREAK : undefined;
      },
    });
    throw new UsageError(`${path}:${lines.linePos(position).line}: ${(error as Error).message}`);
  }
}

/** Of the field's key; of the nearest thing around it that has a place. */
function lineOfField(
  document: Document,
  lines: LineCounter,
  field: readonly PropertyKey[],
): number {
  for (let length = field.length; length >= 0; length--) {
    const node = length === 0 ? document.contents : document.getIn(field.slice(0, length), true);
    if (isNode(node) && node.range) return lines.linePos(node.range[0]).line;
  }
  return 1;
}
