/**
 * The control protocol's methods with their schemas: what the server checks parameters against, and
 * what `rpc.discover` tells (OpenRPC 1.3). Loaded with the first client: zod costs memory and time.
 */

import { z } from 'zod';
import { FIGURES } from './figures.ts';
import { DEVICE_OPTIONS, type OptionSpec } from './options.ts';
import { DEVICE_STATES, type MethodName } from './protocol.ts';
import { VERSION } from './version.ts';

/** What a setting may be written as; its value is checked where it is used, by parseOption. */
export function settingSchema({ kind, help, choices = [] }: OptionSpec): z.ZodType {
  switch (kind) {
    case 'flag':
      return z.boolean().describe(help);
    case 'text':
      return z.string().describe(help);
    case 'size':
      return z
        .union([z.number(), z.string()], { error: 'a size such as 512M or 2G' })
        .describe(`${help}; bytes, or text such as 512M`);
    case 'count':
      return z.number().describe(help);
    case 'choice': {
      const error = `one of ${choices.join(', ')}`;
      const words = z.enum(choices as readonly [string], { error });
      if (!choices.every((choice) => /^\d+$/.test(choice))) return words.describe(help);
      return z.union([words, z.number()], { error }).describe(help);
    }
  }
}

/** A device's settings: the names of the daemon's options. */
export const deviceSettings = z.strictObject(
  Object.fromEntries(
    Object.entries(DEVICE_OPTIONS).map(([name, spec]) => [name, settingSchema(spec).optional()]),
  ),
);

/** Of what is wrong, so much is shown. */
const SHOWN_LENGTH_MAX = 60;

const device = z.string().describe("the device's name");
const bytes = z.number().int().positive().describe('bytes');

const statistics = z
  .strictObject(
    Object.fromEntries(
      Object.entries(FIGURES).map(([name, { help, kind }]) => {
        if (kind === 'text') return [name, z.string().nullable().describe(help)];
        if (kind === 'histogram') return [name, z.array(z.number()).describe(help)];
        return [name, z.number().describe(help)];
      }),
    ),
  )
  .describe('figures of one device; sizes are bytes');

const status = z
  .strictObject({
    device,
    state: z.enum(DEVICE_STATES),
    connected: z.boolean().describe('a front end is connected'),
    socket: z.string().nullable().describe('where front ends connect; null: inherited'),
    thread: z.number().int().describe('that serves it, from 0'),
    statistics: statistics.nullable().describe('null: not initialised'),
    share: z
      .strictObject({
        guarantee: z.number().describe('what no other device can take'),
        used: z.number().describe('what it holds of the budget'),
        share: z.number().describe('what it may hold while memory is short'),
        refused: z.number().describe('how often it wanted more and got nothing'),
      })
      .nullable()
      .describe("its part of the daemon's budget, in bytes; null: there is none"),
  })
  .describe('a device');

const daemon = z.strictObject({
  version: z.string(),
  process: z.number().int(),
  uptime_seconds: z.number(),
  threads: z.number().int().describe('reactor threads'),
  budget: z
    .strictObject({
      limit: z.number().describe('bytes for stored pages of all devices'),
      committed: z.number().describe('held or guaranteed bytes'),
    })
    .nullable(),
});

export interface MethodSchema {
  readonly summary: string;
  readonly params: z.ZodObject;
  readonly result: z.ZodType;
}

export const METHODS: Readonly<Record<MethodName, MethodSchema>> = {
  daemon: {
    summary: 'the daemon itself',
    params: z.strictObject({}),
    result: daemon,
  },
  devices: {
    summary: 'all devices',
    params: z.strictObject({}),
    result: z.array(status),
  },
  statistics: {
    summary: 'figures of an initialised device',
    params: z.strictObject({ device }),
    result: statistics,
  },
  set: {
    summary:
      'settings for the next init of an uninitialised device; of an initialised one those that may change',
    params: z.strictObject({ device, settings: deviceSettings }),
    result: status,
  },
  init: {
    summary: 'makes the disk, with the settings of the daemon, those set before, and these',
    params: z.strictObject({ device, settings: deviceSettings.optional() }),
    result: status.extend({
      warnings: z.array(z.string()).describe('what is unusual about the disk'),
    }),
  },
  reset: {
    summary: 'frees all memory: uninitialised again; refused while a front end runs its queues',
    params: z.strictObject({ device }),
    result: status,
  },
  add: {
    summary: 'a further device, uninitialised',
    params: z.strictObject({ device, settings: deviceSettings.optional() }),
    result: status,
  },
  remove: {
    summary: 'takes a device away; refused while a front end runs its queues',
    params: z.strictObject({ device }),
    result: z.null(),
  },
  setMemlimit: {
    summary: 'the limit on compressed bytes in memory of a device with a backing swap',
    params: z.strictObject({ device, bytes }),
    result: bytes,
  },
  grow: {
    summary: 'makes a disk larger while it is used',
    params: z.strictObject({ device, bytes }),
    result: bytes,
  },
  reload: {
    summary: 'reads the configuration file again and applies what has changed',
    params: z.strictObject({}),
    result: z.strictObject({
      done: z.array(z.string()).describe('what was changed'),
      refused: z.array(z.string()).describe('what was not, and why'),
    }),
  },
  handOver: {
    summary: 'gives the only device to the process that listens at the path, and ends',
    params: z.strictObject({ device, path: z.string(), version: z.number().int() }),
    result: z.never(),
  },
};

/** OpenRPC 1.3: all methods with JSON schemas. */
export function openRpcDocument(): object {
  const json = (schema: z.ZodType) => z.toJSONSchema(schema, { unrepresentable: 'any' });
  const params = (schema: z.ZodObject) =>
    Object.entries(schema.shape).map(([name, type]) => ({
      name,
      required: !(type as z.ZodType).safeParse(undefined).success,
      schema: json(type as z.ZodType),
    }));
  return {
    openrpc: '1.3.2',
    info: { title: 'ramzswapd', version: VERSION },
    methods: Object.entries(METHODS).map(([name, method]) => ({
      name,
      summary: method.summary,
      paramStructure: 'by-name',
      params: params(method.params),
      result: { name: 'result', schema: json(method.result) },
    })),
  };
}

/** What is wrong with parameters, for people: field, expected, got; undefined: nothing. */
export function wrongParams(schema: z.ZodObject, params: unknown): string | undefined {
  const checked = schema.safeParse(params, { reportInput: true });
  return checked.success ? undefined : issueText(checked.error.issues[0]!);
}

/** One issue as `field: expected …, got …`. */
export function issueText(issue: z.core.$ZodIssue, whole = 'params'): string {
  if (issue.code === 'unrecognized_keys') {
    const what = issue.path.length === 0 && whole === 'params' ? 'parameter' : 'setting';
    return `${[...issue.path, issue.keys[0]!].join('.')}: there is no such ${what}`;
  }
  const field = issue.path.length === 0 ? whole : issue.path.join('.');
  return `${field}: expected ${expectedOf(issue)}, got ${shown(issue.input)}`;
}

function shown(input: unknown): string {
  if (input === undefined) return 'nothing';
  try {
    const text = JSON.stringify(input);
    return text.length <= SHOWN_LENGTH_MAX ? text : `${text.slice(0, SHOWN_LENGTH_MAX)}…`;
  } catch {
    // By its aliases, a file's can.
    return 'something that contains itself';
  }
}

function expectedOf(issue: z.core.$ZodIssue): string {
  // Said with the schema, where zod's own words would say less.
  if (issue.code !== 'invalid_type') return issue.message;
  return ['object', 'record'].includes(issue.expected) ? 'settings' : issue.expected;
}
