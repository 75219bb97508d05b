"""A small real MCP server over stdio (or HTTP with a port as its argument), for tests of the search provider."""
import asyncio
import json
import os
import sys

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("search-for-tests")


@server.tool()
def add(a: int, b: int) -> int:
    "Not a search."
    return a + b


@server.tool()
async def web_search(query: str, max_results: int = 10) -> str:
    "Search; the query says what happens."
    if "die" in query: os._exit(3)
    if "hang" in query: await asyncio.sleep(60)
    if "fail" in query: raise ToolError("the index is gone")
    if "chat" in query: return "I would rather talk about the weather."
    if "nothing" in query: return "No results found."
    if "environment" in query: return "Title: " + ",".join(sorted(name for name in os.environ if name.endswith("_KEY"))) + "\nURL: https://env.example/"
    rows = [{"title": f"{query} {i}", "url": f"https://site{i}.example/page", "description": f"about {query}", "page_age": "2024-03-01"} for i in range(max_results)]
    if "json" in query: return json.dumps({"web": {"results": rows}})
    return "\n\n".join(f"Title: {row['title']}\nDescription: {row['description']}\nURL: {row['url']}" for row in rows)


if __name__ == "__main__":
    if len(sys.argv) > 1: server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else: server.run("stdio")
